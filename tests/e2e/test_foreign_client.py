"""A client built without this project's code: stubs by plain protoc in an empty folder."""

import os
import subprocess
import sys
from pathlib import Path

PROTOS = Path(__file__).parents[2] / "protos"

_CLIENT = """
import sys, uuid
import grpc
from taskflow.auth.v1 import auth_service_pb2 as auth, auth_service_pb2_grpc as auth_grpc
from taskflow.auth.v1 import workspace_service_pb2 as workspaces, workspace_service_pb2_grpc as workspaces_grpc
from taskflow.task.v1 import project_pb2, project_service_pb2 as projects, project_service_pb2_grpc as projects_grpc
from taskflow.task.v1 import task_pb2, task_service_pb2 as tasks, task_service_pb2_grpc as tasks_grpc

channel = grpc.insecure_channel(sys.argv[1])
email, password = f"{uuid.uuid4().hex}@example.com", "a password of its own"
accounts = auth_grpc.AuthServiceStub(channel)
accounts.Register(auth.RegisterRequest(email=email, password=password, display_name="Someone"))
login = accounts.Login(auth.LoginRequest(email=email, password=password))
me = (("authorization", f"Bearer {login.tokens.access_token}"),)

workspace = workspaces_grpc.WorkspaceServiceStub(channel).CreateWorkspace(
    workspaces.CreateWorkspaceRequest(display_name="Mine"), metadata=me).workspace
project = projects_grpc.ProjectServiceStub(channel).CreateProject(
    projects.CreateProjectRequest(
        workspace_id=workspace.id, project=project_pb2.Project(key="ABC", display_name="First")),
    metadata=me).project
stub = tasks_grpc.TaskServiceStub(channel)
watch = stub.WatchTasks(tasks.WatchTasksRequest(workspace_id=workspace.id), metadata=me, timeout=20)
assert next(watch).HasField("heartbeat")
created = stub.CreateTask(
    tasks.CreateTaskRequest(project_id=project.id, task=task_pb2.Task(title="Seen live")), metadata=me).task
for message in watch:
    if message.change.task.id == created.id:
        print("watched", message.change.task.key)
        break
"""


def test_a_plain_protoc_client_registers_creates_and_watches(gateway: str, tmp_path: Path) -> None:
    files = [str(path.relative_to(PROTOS)) for path in PROTOS.glob("taskflow/**/*.proto")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{PROTOS}/third_party"]
    outputs = [f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    subprocess.run([*command, *outputs, *files, "buf/validate/validate.proto"], check=True)
    client = tmp_path / "client.py"
    client.write_text(_CLIENT)
    # First on the path, so that these stubs are imported instead of the project's.
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, str(client), gateway],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("watched ABC-1")
