"""What tests share: nodes, ports, samples, services, peers on the wire."""
