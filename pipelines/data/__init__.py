"""What ingest and validate need: the dataset's schema, published formats, shards and checks. No torch here."""
