"""The PostgreSQL schema as SQLAlchemy classes. Only the migrations create it; a test holds the two against
each other."""

from store.tables.base import Base
from store.tables.client_sessions import ClientSessionRow, SamplingRequestRow, SamplingSessionRow
from store.tables.contractions import ContractionRow
from store.tables.environments import BuildLogLineRow, EnvironmentBuildRow, EnvironmentRow
from store.tables.guard import AlarmRow, EvalRow, GuardRow
from store.tables.models import CheckpointNameRow, CheckpointRow, ModelRow
from store.tables.operations import ModelLeaseRow, OperationRow, TrainingTurnRow
from store.tables.pictures import PictureRow, TracePictureRow
from store.tables.placements import EnvironmentSessionRow, HostedRolloutRow, PlacementRow, RunnerRow
from store.tables.planes import (
    AdapterWantRow,
    SamplerAdapterRow,
    SamplerDemandRow,
    SamplerRow,
    ServerRow,
    TrainerRow,
    TrainerStartRow,
)
from store.tables.reports import JobRow, TraceRow
from store.tables.rollouts import SampleRow, SpanRow, TraceCommentRow, TraceTextRow
from store.tables.runs import FileRow, RunEventRow, RunRow, RunStepRow
from store.tables.service import ServiceRow
from store.tables.sessions import WebSessionRow
from store.tables.tasksets import TasksetRow, TasksetTaskRow
from store.tables.teams import ApiKeyRow, EventRow, TeamRow, TrainingUsageRow
from store.tables.trainer_logprobs import TrainerLogprobsRow

__all__ = [
    "AdapterWantRow",
    "AlarmRow",
    "ApiKeyRow",
    "Base",
    "BuildLogLineRow",
    "CheckpointNameRow",
    "CheckpointRow",
    "ClientSessionRow",
    "ContractionRow",
    "EnvironmentBuildRow",
    "EnvironmentRow",
    "EnvironmentSessionRow",
    "EvalRow",
    "EventRow",
    "FileRow",
    "GuardRow",
    "HostedRolloutRow",
    "JobRow",
    "ModelLeaseRow",
    "ModelRow",
    "OperationRow",
    "PictureRow",
    "PlacementRow",
    "RunEventRow",
    "RunRow",
    "RunStepRow",
    "RunnerRow",
    "SampleRow",
    "SamplerAdapterRow",
    "SamplerDemandRow",
    "SamplerRow",
    "SamplingRequestRow",
    "SamplingSessionRow",
    "ServerRow",
    "ServiceRow",
    "SpanRow",
    "TasksetRow",
    "TasksetTaskRow",
    "TeamRow",
    "TraceCommentRow",
    "TracePictureRow",
    "TraceRow",
    "TraceTextRow",
    "TrainerLogprobsRow",
    "TrainerRow",
    "TrainerStartRow",
    "TrainingTurnRow",
    "TrainingUsageRow",
    "WebSessionRow",
]
