"""Pages that draw sections: the parts that reports and the dashboard share."""
