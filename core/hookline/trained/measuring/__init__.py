"""What a trained model is worth on the splits of its data: of several runs, of single examples, of its features."""
