"""The data source ``csv``: tables in CSV and Parquet files."""
