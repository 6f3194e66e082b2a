"""The way out: which provider a model goes to, how it wants to be asked, and the call itself.

The rule: what reaches a provider is only what this floor wrote. A client's query, headers and
bytes never become part of a request line or a header unless they are named here.
"""
