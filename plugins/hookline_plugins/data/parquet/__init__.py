"""The data source ``parquet``: tables that are larger than the memory."""
