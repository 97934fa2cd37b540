"""Ports for servers under test."""

from limen.command.ports import free_ports

__all__ = ["free_ports"]
