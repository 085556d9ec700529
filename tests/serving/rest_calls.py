"""Requests to a REST server."""

import socket

ROWS = [[1.0, 2.0, 3.0], [0.0, -1.0, 0.5]]


def predict(client, body, path="affine"):
  response = client.post(f"/v1/models/{path}:predict", json=body)
  assert response.headers["content-type"] == "application/json"
  return response.status_code, response.json()


def connect(client):
  return socket.create_connection(("127.0.0.1", client.base_url.port), timeout=30)
