"""What an operator sees: log lines and metrics.

The rule: nothing here is called per message. Lower floors count in plain integers; once a
second, and when asked, those become metrics.
"""
