"""What a trained model can do, measured: one file per task, arrays in and measurements out.

Every task is a function of features (NumPy arrays), so it knows nothing of models or datasets;
`features.py` makes the features of a dataset once and `suite.py` runs every task on them.
"""
