"""The door: HTTP before the 101, and what each server needs to let a session through.

The rule: Flask lives on this floor and in ``app``, nowhere else. Everything a client can be
refused for is refused here, before the 101, as an HTTP status with an OpenAI-shaped body.
"""
