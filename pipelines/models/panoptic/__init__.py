"""Models of the panoptic task, one file each."""
