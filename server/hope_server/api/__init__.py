"""The HTTP surface: OpenAI's endpoints, sessions, operations. A new one is one file and one line here."""

from fastapi import APIRouter

from hope_server.api import (
    chat,
    completions,
    conversations,
    health,
    loss,
    messages,
    metrics,
    models,
    page,
    responses,
    sessions,
    time_travel,
    tokens,
    transfer,
)

ROUTERS: tuple[APIRouter, ...] = (
    chat.router,
    responses.router,
    conversations.router,
    completions.router,
    models.router,
    sessions.router,
    messages.router,
    loss.router,
    time_travel.router,
    transfer.router,
    tokens.router,
    health.router,
    metrics.router,
    page.router,
)
