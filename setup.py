"""Everything is declared in setup.cfg; this file is here for tools that look for it."""

from setuptools import setup

setup()
