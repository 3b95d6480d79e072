"""The provisioning station: gives each board on a line its own AWS IoT certificate, and proves that it works."""
