"""The search: candidates drawn from tune.space, trained as trials of Ray Tune, compared, and what came of each.

`run.search` is the way in. What is known of each trial stands in the journal (`record`), and who goes on follows from
that alone (`halving`, `asha`, `population`): a search that was killed is built again from its journal.
"""
