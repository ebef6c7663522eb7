"""Other formats of a trained model, each written whole and compared with the model it came from."""
