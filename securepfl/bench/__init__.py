"""`securepfl bench`: encrypted sums and similarity beside what people use today, in one run on one vector."""
