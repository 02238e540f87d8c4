"""Videos on top of the image models: masks that are propagated, instances that are tracked."""
