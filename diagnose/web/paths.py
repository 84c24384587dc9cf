"""Where the API has what."""

HEALTH, READY, METRICS = "/healthz", "/readyz", "/metrics"
OPENAPI = "/v1/openapi.json"
STATUS = "/v1/status"
REPORT = "/v1/report"
INCIDENTS = "/v1/incidents"
INCIDENT = "/v1/incidents/{id}"
ACK = "/v1/incidents/{id}/ack"
ORDERS = "/v1/orders"
OUTPUTS = "/v1/outputs"
ALERTS = "/v1/alerts"
RESEND = "/v1/alerts/resend"
DRILLS = "/v1/drills"
SILENCES = "/v1/silences"
SILENCE = "/v1/silences/{id}"

FOR_ALL = frozenset({HEALTH, READY, METRICS})
"""What may be read without a token from everywhere: it holds numbers and names, and no lines of logs."""
