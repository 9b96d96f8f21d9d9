"""Circuits generated from the same values that define the arithmetic. Needs amaranth: pip install 'bitwright[rtl]'."""
