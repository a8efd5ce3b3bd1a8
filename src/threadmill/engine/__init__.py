"""The use-cases: accepting, running, ending, cancelling, healing, answering.

They know ports only; which database or broker is behind them is `composition`'s choice.
"""
