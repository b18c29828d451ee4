"""The first config for a table: which columns to use, how, and with which loss."""
