"""`limen doctor`: what a node needs to work, looked at piece by piece.

A check (``check.py``) says what it looks at and what it cannot do without; ``registry.py`` lists
them, ``examination.py`` runs them side by side. None of them changes anything that people see.
"""
