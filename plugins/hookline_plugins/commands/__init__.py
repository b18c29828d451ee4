"""The commands of Hookline that are plugins, and the parts that they alone need."""
