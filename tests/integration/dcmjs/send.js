// dcmjs-dimse as SCU: node send.js PORT FILE... prints the status of each, and of a C-ECHO, as JSON.
const { Client, requests } = require('dcmjs-dimse');

const [port, ...files] = process.argv.slice(2);
const answers = { echo: null, stores: [] };
const client = new Client();
const echo = new requests.CEchoRequest();
echo.on('response', (response) => { answers.echo = response.getStatus(); });
client.addRequest(echo);
for (const file of files) {
  const store = new requests.CStoreRequest(file);
  store.on('response', (response) => { answers.stores.push(response.getStatus()); });
  client.addRequest(store);
}
client.on('networkError', (error) => { console.error(String(error)); process.exitCode = 1; });
client.on('associationRejected', (rejection) => { console.error(JSON.stringify(rejection)); process.exitCode = 4; });
client.on('closed', () => { console.log(JSON.stringify(answers)); });
client.send('127.0.0.1', Number(port), 'DCMJS', 'LIMEN');
