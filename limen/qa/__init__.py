"""`limen qa`: test studies at regular times, compared with those before.

``history.py`` keeps what each came to, ``judgement.py`` says whether it is as it was. How a test
study goes on its way is ``limen.doctor.trial``.
"""
