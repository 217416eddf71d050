"""`make bench`: measures every row of docs/performance.md, each with its floor in the same run.

A floor is the same work without our code: on bare grpc.aio, JetStream or Temporal, on the same machine and load.
"""
