"""The pure core: what happens to sessions, blocks, holds and the budget, and nothing else.

Start with `model` (the data), `effects` (what the core wants done) and `registry` (the events and
the rules). `lifecycle` has the steps of a job and a block, `jobs` who waits for what, `admission`
how jobs get room. `streams` has the events and rules of streams of rows, `stream_model` their data.
Nothing in here does input or output, or asks for the time; a test holds that.
"""
