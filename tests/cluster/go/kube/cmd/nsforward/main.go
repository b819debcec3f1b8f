// Command nsforward accepts TCP connections in the network namespace it was started in and carries each one to an
// address that only another network namespace can reach: the door from a test to the cluster.
//
//	nsforward LISTEN-ADDRESS NETNS-FILE TARGET-ADDRESS
//
// LISTEN-ADDRESS may end in port 0; the address in use is the first line on standard output.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const dialTimeout = 10 * time.Second

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: nsforward LISTEN-ADDRESS NETNS-FILE TARGET-ADDRESS")
	}
	namespace, target := os.Args[2], os.Args[3]
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	requests := make(chan dialRequest)
	go dialInside(namespace, requests)
	for {
		client, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go carry(client.(*net.TCPConn), target, requests)
	}
}

type dialRequest struct {
	target string
	answer chan<- socket
}

type socket struct {
	fd  int
	err error
}

// dialInside owns one operating system thread that has entered the namespace for good. It only creates sockets there
// (a socket belongs to the namespace of the thread that made it); connecting and copying happen elsewhere.
func dialInside(namespace string, requests <-chan dialRequest) {
	runtime.LockOSThread()
	file, err := os.Open(namespace)
	if err != nil {
		log.Fatal(err)
	}
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		log.Fatalf("enter %s: %v", namespace, err)
	}
	file.Close()
	for request := range requests {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		request.answer <- socket{fd, err}
	}
}

// dial connects a socket of the other namespace.
func dial(target string, requests chan<- dialRequest) (*net.TCPConn, error) {
	address, err := net.ResolveTCPAddr("tcp4", target)
	if err != nil {
		return nil, err
	}
	answer := make(chan socket, 1)
	requests <- dialRequest{target, answer}
	made := <-answer
	if made.err != nil {
		return nil, made.err
	}
	to := &unix.SockaddrInet4{Port: address.Port, Addr: [4]byte(address.IP.To4())}
	if err := unix.Connect(made.fd, to); err != nil && err != unix.EINPROGRESS {
		unix.Close(made.fd)
		return nil, fmt.Errorf("connect %s: %w", target, err)
	}
	if err := awaitConnected(made.fd); err != nil {
		unix.Close(made.fd)
		return nil, fmt.Errorf("connect %s: %w", target, err)
	}
	file := os.NewFile(uintptr(made.fd), target)
	defer file.Close()
	connection, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return connection.(*net.TCPConn), nil
}

func awaitConnected(fd int) error {
	deadline := time.Now().Add(dialTimeout)
	for {
		left := time.Until(deadline).Milliseconds()
		if left <= 0 {
			return unix.ETIMEDOUT
		}
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(left))
		if err == unix.EINTR || (err == nil && ready == 0) {
			continue
		}
		if err != nil {
			return err
		}
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil {
			return err
		}
		if code != 0 {
			return unix.Errno(code)
		}
		return nil
	}
}

// carry copies both ways and passes each side's end of stream on, so that half-closed connections work as without us.
func carry(client *net.TCPConn, target string, requests chan<- dialRequest) {
	defer client.Close()
	server, err := dial(target, requests)
	if err != nil {
		log.Print(err)
		client.SetLinger(0) // the caller sees a reset, as it would see a refusal
		return
	}
	defer server.Close()
	var both sync.WaitGroup
	both.Add(2)
	go pipe(&both, server, client)
	go pipe(&both, client, server)
	both.Wait()
}

// pipe copies one way. A broken side ends the other side too: a reset must not leave a half-open connection behind.
func pipe(done *sync.WaitGroup, to, from *net.TCPConn) {
	defer done.Done()
	if _, err := io.Copy(to, from); err != nil {
		to.SetLinger(0)
		to.Close()
		from.Close()
		return
	}
	to.CloseWrite()
}
