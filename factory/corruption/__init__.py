"""Faults with known answers: a right answer is spoilt in one known way, and the right one is the correction.

A corruption is a pure function over one checked case; it says None where it does not apply. Each module
holds the corruptions of one idea, `factory.corruption.kinds` finds them by name and refuses what is no fault.
Which cases are spoilt how often is not decided here.
"""
