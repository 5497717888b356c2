"""The wire contracts: the .proto files, and the code that `make proto` generates from them."""
