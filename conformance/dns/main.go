// Command dns responds to every query, and stands for the CoreDNS image of the conformance suite, whose tests ask only
// whether a query arrives.
package main

import (
	"log"

	"github.com/miekg/dns"
)

func main() {
	dns.HandleFunc(".", func(w dns.ResponseWriter, query *dns.Msg) {
		if err := w.WriteMsg(new(dns.Msg).SetReply(query)); err != nil {
			log.Print(err)
		}
	})
	log.Fatal((&dns.Server{Addr: ":53", Net: "udp"}).ListenAndServe())
}
