"""What relaying and metering a voice session costs here, and in what one would use instead.

``python -m bench`` runs it, ``docs/performance.md`` explains it. The rule: everything that is
compared is measured in one run, in alternating rounds, by the same load.
"""
