"""The pure core: what happens to sessions, blocks, holds and the budget, and nothing else.

Read `records` for the data, `effects` for what the core can ask of the world, and
`registry` for the rules. Nothing in here imports zmq, os, time, threading, logging or
numpy; a test holds that.
"""
