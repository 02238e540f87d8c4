"""The model registry: packaged versions, who is champion, and why. The one place that writes to it."""
