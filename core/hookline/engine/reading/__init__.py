"""Reading: from a dataset to the batches of an epoch, in any process."""
