"""Print unlabelled rows of the demo's hospital that took no part, as CSV: input for `securepfl route`.

Patients and hospital are simulated; its scanner is one of the demo's family B.
"""

import csv
import sys

from securepfl.data.demo import outside_hospital, simulated_hospitals

spec, _ = simulated_hospitals()
ranges = [spec.ranges[name] for name in spec.feature_names]
writer = csv.writer(sys.stdout, lineterminator="\n")
writer.writerow(spec.feature_names)
for row in outside_hospital().features:
    writer.writerow([round(each.centre + each.spread * float(x), 6) for each, x in zip(ranges, row, strict=True)])
