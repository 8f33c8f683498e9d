"""The helpers that the chapters of "Normalization, Measured" share.

The rooms, in the order in which data passes through them: `data`, `norm`, `layers`, `weights`,
`networks`, `transformer`, `population`, `state`, `probes`, `diagnosis`, `intervals`, `figures`,
`evidence`, `exercises`, `explorables`, `conventions`. A module imports only from modules named
before it. The idea behind each helper is written out in the chapter that its docstring names.
"""

__version__ = "0.1.0"
