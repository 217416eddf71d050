"""The schema `task`. Enum columns hold the numbers of the proto's enums; times are UTC instants.

Every list has the tasks of a workspace or of some of its projects, so the indexes begin with either. Ids are UUIDv7 and
`created_at` is the time in them, so ids have the order of creation. Lists still order by (created_at, id): for the id
alone, the planner often scans the primary key across all workspaces. Each order has an index by status, too: most tasks
are done, and a scan for the open ones would pass them all.
"""

from sqlalchemy import MetaData

metadata = MetaData(schema="task")
