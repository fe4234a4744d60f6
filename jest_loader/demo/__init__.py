"""``jest-loader demo``: joint example selection on real data, end to end, in minutes.

``icons`` renders pictures and their names, ``data`` packs them as three sets, ``run`` trains the
reference and three arms, and ``table`` and ``plots`` show what came out.
"""
