// Tries a door: `door ADDRESS METHOD [NAME VALUE]` calls a method with an empty message, and these metadata. Prints the status.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Messages as they are on the wire.
type raw struct{}

func (raw) Marshal(value interface{}) ([]byte, error) { return *value.(*[]byte), nil }

func (raw) Unmarshal(data []byte, value interface{}) error {
	*value.(*[]byte) = data
	return nil
}

func (raw) Name() string   { return "proto" }
func (raw) String() string { return "proto" }

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if len(os.Args) > 3 {
		ctx = metadata.AppendToOutgoingContext(ctx, os.Args[3:]...)
	}
	connection, err := grpc.DialContext(ctx, os.Args[1], grpc.WithInsecure(), grpc.WithBlock())
	if err == nil {
		var request, reply []byte
		err = connection.Invoke(ctx, os.Args[2], &request, &reply, grpc.ForceCodec(raw{}))
	}
	fmt.Println(status.Code(err))
}
