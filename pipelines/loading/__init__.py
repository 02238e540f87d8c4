"""What training needs of the dataset: shards -> augmented batches."""
