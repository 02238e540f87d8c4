"""What the tests of validation share."""

import pytest

from pipelines.validation.intake import Intake


@pytest.fixture(scope="session")
def clean() -> Intake:
    """Ingest had nothing to mend and nothing to leave out."""
    return Intake(
        found=11, kept=11, mended=0, skipped=0, quarantined=0, max_rejected=0.2, source_hashes=True, findings=()
    )
