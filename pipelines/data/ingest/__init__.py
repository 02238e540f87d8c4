"""From a source to shards: what is to be done (plan, survey, splits), where it is done (engine, work, parallel), and
the account of it (report). `run.ingest` is the whole of it."""
