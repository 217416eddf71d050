"""The Postgres schema `task`. Enum columns hold the numbers of the proto's enums; times are UTC instants.

Every list shows the tasks of a workspace or of some of its projects, so each index begins with one of the two. Ids are
UUIDv7 and `created_at` is the time in them, so ids have the order of creation. Lists still order by (created_at, id):
for the id alone, the planner often scans the primary key across all workspaces. Each order also has an index by status:
most tasks are done, and a scan for open tasks would read all done tasks.
"""

from sqlalchemy import MetaData

metadata = MetaData(schema="task")
