"""Limen's results server: receives result documents over HTTP and shows them to readers.

It stands alone: it imports nothing of the node, reads its settings from the
environment, and knows a study only through the result document.
"""
