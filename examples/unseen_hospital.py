"""Print unlabelled rows of a fifth, unseen scanner as CSV: input for `securepfl route`.

They are biopsies of the demo's public data, measured as if by another scanner, so that the command can be tried;
some of them trained the experts, so what comes out is no result.
"""

import csv
import sys

import numpy as np
from sklearn.datasets import load_breast_cancer

cohort = load_breast_cancer()
rows = np.random.default_rng(7).permutation(len(cohort.data))[:60]
powers = [2 if "area" in name else 1 if "radius" in name or "perimeter" in name else 0 for name in cohort.feature_names]
writer = csv.writer(sys.stdout, lineterminator="\n")
writer.writerow(cohort.feature_names)
writer.writerows((cohort.data[rows] * 1.05 ** np.array(powers)).round(6).tolist())
