"""Files of tables: their format, and the text of their columns."""
