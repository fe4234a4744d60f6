"""``jest-loader demo``: joint example selection on real data, end to end, in minutes.

icons   renders pictures and their names
data    packs them as three sets
plan    gives each run its steps
run     trains the reference and four arms
table   says what runs and what came out
plots   draws curves
sheets  draws what is found, taken and left out
"""
