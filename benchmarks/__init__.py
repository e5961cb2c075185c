"""What an audit trail costs: `python -m benchmarks`, or `make bench`.

Read in this order: `tables` (what is written), `systems` (who records it), `workloads` (the
statements), `measure` (rounds and clocks), `plan` (what is measured with what), `report` (results
to a page and a chart).
"""
