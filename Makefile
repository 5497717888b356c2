PYTHON ?= python3
BIN := .venv/bin

.PHONY: proto
proto:
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc --mypy_out=. --mypy_grpc_out=. shared_proto/inference.proto shared_proto/compositing.proto
