"""report.html: what a run came to, as one page for hospitals, from the files in its folder.

reading      a run's folder, checked                         page        all of it as HTML, of one run or of several
sentences    the verdict: three sentences                    warnings    notes by what they weigh
blocks       what sections are made of                       drawing     matplotlib's SVG as part of a page
results, released, curves, curves_by_part, curves_of_numbers, rounds, privacy, learners, similarity, traffic, ledgers,
settings, comparing, routed
             one section each, or a few that belong together
"""
